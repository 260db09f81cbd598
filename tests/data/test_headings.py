from __future__ import annotations

import pytest

from creativewritinggpt.data.readers.books import read_book
from creativewritinggpt.data.readers.manuscripts import read_markdown

BODY = {
    "zh": (
        "她数了一遍箱子，比中午多了一个。没有人订过第十三只箱子，也没有人签收。港口的钟响了两次。"
    ),
    "ja": ("港の鐘が二度鳴ったが、誰も顔を上げなかった。彼女は箱を数え直した。一つ多かった。"),
    "ko": (
        "항구의 종이 두 번 울렸지만 아무도 고개를 들지 않았다. 그녀는 상자를 다시 세"
        "어 보았다. 하나가 더 많았다."
    ),
    "th": ("ระฆังท่าเรือดังสองครั้งแต่ไม่มีใครเงยหน้าขึ้นมอง เธอนับลังอีกครั้งและพบว่ามีมากกว่าตอนเที่ยงหนึ่งลัง"),
    "ar": (
        "دق جرس الميناء مرتين قبل أن ينظر أحد إلى الأعلى. عدت الصناديق مرة أخرى فوجدت "
        "واحدا زائدا. لم يطلب أحد ذلك."
    ),
    "he": (
        "פעמון הנמל צלצל פעמיים לפני שמישהו הרים את מבטו. היא ספרה שוב את הארגזים ומצאה "
        "אחד נוסף. איש לא הזמין אותו."
    ),
    "hi": (
        "बंदरगाह की घंटी दो बार बजी पर किसी ने सिर नहीं उठाया। उसने फिर से पेटियाँ "
        "गिनीं और एक अधिक पाई। किसी ने नहीं मँगाई थी।"
    ),
    "ru": (
        "Портовый колокол прозвонил дважды, но никто не поднял головы. Она снова пересчитала "
        "ящики и нашла на один больше."
    ),
    "el": (
        "Η καμπάνα του λιμανιού χτύπησε δυο φορές και κανείς δεν κοίταξε. Εκείνη μέτρησε "
        "πάλι τα κιβώτια και βρήκε ένα παραπάνω."
    ),
    "de": (
        "Die Hafenglocke läutete zweimal, ehe jemand auf dem Kai den Kopf hob. Sie "
        "zählte die Kisten noch einmal und fand eine mehr als am Mittag."
    ),
}
HEADINGS = [
    ("de", "Erstes Kapitel | Zweites Kapitel | Drittes Kapitel"),
    ("de", "Kapitel 1 | Kapitel 2 | Kapitel 3"),
    ("de", "1. Kapitel | 2. Kapitel | 3. Kapitel"),
    ("de", "Erster Teil | Zweiter Teil | Dritter Teil"),
    ("de", "Kapitel Eins | Kapitel Zwei | Kapitel Drei"),
    ("de", "Chapitre premier | Chapitre deuxième | Chapitre III"),
    ("de", "CHAPITRE I | CHAPITRE II | CHAPITRE III"),
    ("de", "PREMIÈRE PARTIE | DEUXIÈME PARTIE | TROISIÈME PARTIE"),
    ("de", "Capítulo primero | Capítulo II | Capítulo III. De lo que pasó"),
    ("de", "Primera parte | Segunda parte | Tercera parte"),
    ("de", "CAPITULO 1 | CAPITULO 2 | CAPITULO 3"),
    ("de", "Capitolo primo | Capitolo secondo | Capitolo terzo"),
    ("de", "CAPITOLO I | CAPITOLO II | CAPITOLO III"),
    ("de", "Capítulo Um | Capítulo Dois | Capítulo Três"),
    ("de", "Hoofdstuk 1 | Hoofdstuk 2 | Hoofdstuk 3"),
    ("de", "Eerste hoofdstuk | Tweede hoofdstuk | Derde hoofdstuk"),
    ("de", "Kapitola první | Kapitola druhá | Kapitola třetí"),
    ("de", "1. kapitola | 2. kapitola | 3. kapitola"),
    ("de", "Rozdział pierwszy | Rozdział drugi | Rozdział III"),
    ("ru", "Глава первая | Глава вторая | Глава третья"),
    ("ru", "ГЛАВА I | ГЛАВА II | ГЛАВА III"),
    ("ru", "Часть 1 | Часть 2 | Часть 3"),
    ("ru", "Глава 1. Колокол | Глава 2. Ящик | Глава 3. Туман"),
    ("el", "Κεφάλαιο 1 | Κεφάλαιο 2 | Κεφάλαιο 3"),
    ("el", "ΚΕΦΑΛΑΙΟ ΠΡΩΤΟ | ΚΕΦΑΛΑΙΟ ΔΕΥΤΕΡΟ | ΚΕΦΑΛΑΙΟ ΤΡΙΤΟ"),
    ("el", "ΚΕΦΑΛΑΙΟΝ Α' | ΚΕΦΑΛΑΙΟΝ Β' | ΚΕΦΑΛΑΙΟΝ Γ'"),
    ("zh", "第一章 钟声 | 第二章 箱子 | 第三章 雾"),
    ("zh", "第1章 | 第2章 | 第3章"),
    ("zh", "第一回 甄士隐梦幻识通灵 | 第二回 贾夫人仙逝 | 第三回 托内兄"),
    ("zh", "第一章重逢 | 第二章离别 | 第三章归来"),
    ("zh", "一、重逢 | 二、离别 | 三、归来"),
    ("zh", "一 | 二 | 三"),
    ("zh", "第十九节 | 第二十节 | 第二十一节"),
    ("zh", "楔子 | 第一章 | 尾声"),
    ("ja", "第一章 港 | 第二章 鐘 | 第三章 霧"),
    ("ja", "第１話 | 第２話 | 第３話"),
    ("ja", "プロローグ | 第一話 | エピローグ"),
    ("ja", "１ | ２ | ３"),
    ("ko", "제1장 | 제2장 | 제3장"),
    ("ko", "제 1 화 종소리 | 제 2 화 상자 | 제 3 화 안개"),
    ("ko", "1장 종 | 2장 상자 | 3장 안개"),
    ("ko", "제일장 | 제이장 | 제삼장"),
    ("hi", "अध्याय 1 | अध्याय 2 | अध्याय 3"),
    ("hi", "अध्याय १ | अध्याय २ | अध्याय ३"),
    ("hi", "पहला अध्याय | दूसरा अध्याय | तीसरा अध्याय"),
    ("ar", "الفصل الأول | الفصل الثاني | الفصل الثالث"),
    ("ar", "الفصل 1 | الفصل 2 | الفصل 3"),
    ("ar", "الفصل ١ | الفصل ٢ | الفصل ٣"),
    ("he", "פרק א | פרק ב | פרק ג"),
    ("he", "פרק ראשון | פרק שני | פרק שלישי"),
    ("th", "บทที่ 1 | บทที่ 2 | บทที่ 3"),
    ("th", "บทที่ ๑ | บทที่ ๒ | บทที่ ๓"),
    ("th", "ตอนที่ 1 ระฆัง | ตอนที่ 2 ลัง | ตอนที่ 3 หมอก"),
    ("de", "Birinci Bölüm | İkinci Bölüm | Üçüncü Bölüm"),
    ("de", "BÖLÜM 1 | BÖLÜM 2 | BÖLÜM 3"),
    ("de", "Első fejezet | Második fejezet | Harmadik fejezet"),
    ("de", "Ensimmäinen luku | Toinen luku | Kolmas luku"),
    ("de", "Första kapitlet | Andra kapitlet | Tredje kapitlet"),
    ("de", "Første kapitel | Andet kapitel | Tredje kapitel"),
    ("de", "Chương 1 | Chương Hai | Chương 3: Sương"),
    ("ru", "Розділ перший | Розділ другий | Розділ третій"),
    ("de", "Bab 1 | Bab 2 | Bab 3"),
    ("de", "Capitolul I | Capitolul II | Capitolul III"),
    ("ru", "Глава първа | Глава втора | Глава трета"),
    ("ar", "فصل اول | فصل دوم | فصل سوم"),
    ("ru", "Поглавље 1 | Поглавље 2 | Поглавље 3"),
    ("de", "Ⅰ | Ⅱ | Ⅲ"),
    ("de", "CHAPTER １ | CHAPTER ２ | CHAPTER ３"),
]


@pytest.mark.parametrize(("script", "headings"), HEADINGS)
def test_chapters_are_found_in_many_languages(script: str, headings: str) -> None:
    titles = headings.split(" | ")
    paragraphs = [BODY[script]] * 4
    text = "\n\n\n".join("\n\n".join([title, *paragraphs]) for title in titles)
    for book in (read_book(text), read_markdown(text)):
        assert [chapter.title for chapter in book.chapters] == titles
        assert {chapter.text for chapter in book.chapters} == {"\n\n".join(paragraphs)}
        assert not book.left_out


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("ru", "Часть пути они прошли молча."),
        ("de", "Parte de la casa estaba vacía."),
        ("de", "Das Kapitel war zu Ende."),
        ("zh", "第一章的内容很无聊，他想。"),
        ("ko", "제1장을 다 읽었다."),
    ],
)
def test_sentences_that_begin_like_headings_are_none(script: str, line: str) -> None:
    text = "\n\n".join([BODY[script], line, BODY[script], line, BODY[script]])
    assert [(chapter.title, chapter.text) for chapter in read_book(text).chapters] == [(None, text)]
